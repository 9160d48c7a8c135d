# The machine holds nothing that the bucket does not: it can be deleted and made again at any time.

resource "google_compute_instance" "server" {
  count = var.server ? 1 : 0

  name                      = var.name
  description               = "MLflow over gs://${var.bucket}"
  machine_type              = "e2-micro"
  zone                      = local.zone
  labels                    = local.labels
  allow_stopping_for_update = true

  boot_disk {
    initialize_params {
      image  = "debian-cloud/debian-12"
      type   = "pd-standard" # the free tier holds 30 GB of it, and of no other type
      size   = 20
      labels = local.labels
    }
  }

  network_interface {
    subnetwork = local.subnetwork

    dynamic "access_config" {
      for_each = length(var.open_to) > 0 ? ["an external address"] : []
      content {}
    }
  }

  service_account {
    email  = google_service_account.server[0].email
    scopes = ["cloud-platform"] # its roles say what it may
  }

  shielded_instance_config {
    enable_secure_boot          = true
    enable_vtpm                 = true
    enable_integrity_monitoring = true
  }

  scheduling {
    preemptible                 = var.spot
    provisioning_model          = var.spot ? "SPOT" : "STANDARD"
    automatic_restart           = !var.spot
    instance_termination_action = var.spot ? "STOP" : null
  }

  metadata = {
    enable-oslogin         = "TRUE"
    block-project-ssh-keys = "TRUE"
    startup-script         = file("${path.module}/../server/kaggleops_server.py")
    kaggleops-bucket       = "gs://${local.bucket}"
    # Nobody but IAP reaches the port, and IAP has asked who it is.
    kaggleops-options      = length(var.open_to) > 0 ? "--auth" : "--anyone-may-read-and-write"
    kaggleops-index-secret = var.index_secret == "" ? "" : "projects/${var.project}/secrets/${var.index_secret}"
  }
}
