"""What source, replica and verification share about PostgreSQL: connecting, catalog, types, COPY."""
