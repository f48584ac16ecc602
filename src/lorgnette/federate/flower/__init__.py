"""The only part that knows Flower: federation on several machines, or simulated on one.

What of Flower is replaced at run time is listed in `lorgnette.federate.flower.replaced`, in one table.
"""
