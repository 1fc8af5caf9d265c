"""The command line: each topic a module, each command a call of the client."""
