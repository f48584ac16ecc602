"""A page and an HTTP API around the house: `lorgnette serve`. An edge: nothing but the command line imports it."""
