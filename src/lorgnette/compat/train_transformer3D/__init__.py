"""Names of the original ViewDiff-style face module, as thin fronts over the room `faceview`."""
