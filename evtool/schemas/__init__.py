"""The schema registry: what payloads of a type and version must be, and how old ones become new ones."""
