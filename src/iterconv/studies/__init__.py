"""The paper's studies: which networks each trains, where they run, and the tables that come of them."""
