"""The paper's studies: networks that each trains, jobs, executors that run them, and tables of their results."""
