"""Migrations of the schema, run by Alembic when the records are opened."""
