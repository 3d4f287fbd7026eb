"""Studies of networks and of methods to compare with: `python -m studies --help`, from the folder `scripts`."""
