"""The benchmark of all systems on both data sets: ``make bench``.

Modules in the order a row goes: budgets, splits, systems (unet, ours, published), scoring, rows; then what is made of
the rows: table, targets, plots, page.
"""
