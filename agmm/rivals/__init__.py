"""Methods that the papers ran beside their own."""
