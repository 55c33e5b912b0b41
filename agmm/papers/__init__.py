"""The papers' tables, figures and claims: which runs they need, and what became of them."""
