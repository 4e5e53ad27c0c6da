"""Pictures: the mark that says a machine drew them, and PNG files that say so too."""
