"""The page of a lottery-ticket experiment: its figures, its tables, and what may be said of them."""
