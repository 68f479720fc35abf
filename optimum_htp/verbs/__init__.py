"""What a user can do with a package, one file or directory for each verb of the command line."""
