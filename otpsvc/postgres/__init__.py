"""PostgreSQL: the only place that runs SQL, one adapter per noun over `sql/queries/<noun>.sql`."""
