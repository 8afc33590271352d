"""The rules by which Magenta's calls differ from Zircon's, over the same objects."""
