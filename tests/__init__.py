"""A package, so that tests and the scripts they start share helpers as `tests.folder.module`."""
