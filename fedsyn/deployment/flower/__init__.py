"""Messages over Flower: the apps that it starts, the folder of a federation, and its runs."""
