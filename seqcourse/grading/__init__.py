"""Writing, releasing, collecting and grading the exercises of the course."""
