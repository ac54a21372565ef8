"""The face of a service: `server` has `Server` and `ServerProxy`, `connect` finds a broker,
`service_stack` knows the service that counts where none is named.

Scripts reach it through the names of `park`. It joins the client's modules, and loads the local service when asked to.
"""
