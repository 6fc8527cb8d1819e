"""The papers' protocol beside a profile's."""
