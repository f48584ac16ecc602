"""What can be adapted: one file for each type of layer or method."""
