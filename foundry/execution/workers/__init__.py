"""Ray actors and jobs: shells around plain classes that hold all logic."""
