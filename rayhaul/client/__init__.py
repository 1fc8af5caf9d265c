"""The Python client: one asynchronous implementation, one blocking face. No Ray in here."""
