"""The face of a service: `interface` has `Server`, the methods of every service, and `server` has `ServerProxy`, a service
over the link to a broker. `connect` finds a broker, `broker_info` describes it, and `service_stack` knows the service that
counts where none is named.

Scripts reach it through the names of `park`. It joins the client's modules, and loads the local service when asked to.
"""
