"""Lists of samples, each with an id: chips in files, rows of tables, stores of SSL4EO-S12."""
