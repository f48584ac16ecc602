"""What people use instead: networks inside Python packages, and classical methods. None of them comes with Lorgnette.

Each method takes a picture (h, w, 3) in [0, 1] and gives one in [0, 1], float32.
"""
