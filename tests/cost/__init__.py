"""What an operation of the cores costs, in instructions: exact where time is noise."""
