"""Calibration: the scale at which each direction of guidance comes nearest to the truth, measured without sampling."""
