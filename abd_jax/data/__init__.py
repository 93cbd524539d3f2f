"""From files on disk to the arrays of one task, and from raw pixels to the network's input."""
