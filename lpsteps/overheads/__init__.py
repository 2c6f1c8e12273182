"""What repairs cost: parameters and time of a patch and what it is compared with, and storage.

These are the claims of arXiv 2505.24680, section 4.4, measured on the model and machine of the run.
"""
