"""RECORDS: the only SQL in the house. A task, an attempt, a token or a dollar exists when its row does."""
