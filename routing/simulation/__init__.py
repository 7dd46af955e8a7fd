"""A week of work in seconds: tasks, models, limits and outages with a clock of their own.

    arrivals --> policy --> lanes --> meters, speeds --> tally
    (trace)      decides    (slots)   (the world)        (dollars, waits, losses)

The fleet's own policy decides by the same code as the dispatcher; the others are what it is compared with.
Chance comes from a seed and the name of what is drawn, so every policy meets the same world.
"""
