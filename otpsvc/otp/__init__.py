"""OTPs: one verification of one number for one purpose, from send to verified."""
