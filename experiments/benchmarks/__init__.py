"""What things cost, timed beside what other libraries take."""
