"""How Jupyter Lab starts in the container: change it, and start the container again."""

c = get_config()  # noqa: F821 - Jupyter's
c.ServerApp.root_dir = "/kaggle/working"
c.ServerApp.open_browser = False
c.ServerApp.allow_root = True
# In the container only: compose.yaml publishes the port on this machine alone. Who opens it needs
# the token that is printed.
c.ServerApp.ip = "0.0.0.0"  # noqa: S104
c.ServerApp.port = 8888
