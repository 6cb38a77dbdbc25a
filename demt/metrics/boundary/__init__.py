"""Boundary evaluation (ODS, OIS, AP) without MATLAB: suppression, thinning, matching, scores."""
