"""What is measured of trained runs afterwards; each module bears the name of its probe."""
