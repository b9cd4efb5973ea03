"""The same rounds on real nodes.

`node` is what a node does with a message, `remote` the clients as the server sees them, `server` a
whole run; none of them knows what carries their messages. `flower` carries them over Flower and
has the folder of a federation and its runs; `cluster` is what runs of it on this machine.
"""
