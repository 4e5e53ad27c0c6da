"""Pictures: the mark that says that they are generated, and PNG files with the same statement."""
