"""Load and run models that judge whole texts: sequence classifiers and reward models."""
