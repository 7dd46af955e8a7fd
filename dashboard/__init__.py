"""The pages of the fleet: what it did, what it cost, what needs attention."""
