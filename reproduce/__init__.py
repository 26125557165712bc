"""One script a figure: an experiment's runs in the store become its picture, its tables and its verdict."""
