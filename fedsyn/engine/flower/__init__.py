"""The same rounds on real nodes, over Flower.

`node` is what a node does with a message, `fleet` the clients as the server sees them, `server` a
whole run; none of them knows Flower. `grid` carries their parcels in Flower's messages, and
`server_app` and `client_app` are what Flower starts. `project`, `processes` and `runs` are behind
the command line: the folder of a federation, what runs of it on this machine, and its runs.
"""
