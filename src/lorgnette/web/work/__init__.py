"""What a worker does: a file for each verb, and the models that it keeps. Here is torch; the server has none."""
