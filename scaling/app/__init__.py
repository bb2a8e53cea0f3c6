"""The planner and the fits as a web page."""
