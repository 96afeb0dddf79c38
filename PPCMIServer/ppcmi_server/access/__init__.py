"""Who may do what: sites, operators, their tokens and certificates."""
