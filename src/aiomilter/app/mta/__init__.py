"""What an MTA knows and does around a milter: its mail, its macros, and the edits that it makes."""

__all__: list[str] = []
