"""FedMAC, rows that lack a half."""
