# A network of the machine's own. What no rule allows does not come in: that is Google Cloud's
# default, and a network made here has none of the rules that the project's `default` one comes with.

resource "google_compute_network" "server" {
  count = var.server && var.network == "" ? 1 : 0

  name                    = var.name
  auto_create_subnetworks = false

  depends_on = [google_project_service.api]
}

resource "google_compute_subnetwork" "server" {
  count = var.server && var.network == "" ? 1 : 0

  name                     = var.name
  network                  = google_compute_network.server[0].id
  region                   = var.region
  ip_cidr_range            = "10.50.0.0/29"
  private_ip_google_access = true # the bucket is reached without an external address
}

locals {
  network    = var.network == "" ? one(google_compute_network.server[*].id) : var.network
  subnetwork = var.network == "" ? one(google_compute_subnetwork.server[*].id) : var.subnetwork
}

resource "google_compute_firewall" "iap" {
  count = var.server ? 1 : 0

  name                    = "${var.name}-iap"
  description             = "The server and SSH, for whom Identity-Aware Proxy lets in."
  network                 = local.network
  source_ranges           = [local.iap_range]
  target_service_accounts = [google_service_account.server[0].email]

  allow {
    protocol = "tcp"
    ports    = ["22", local.port]
  }
}

resource "google_compute_firewall" "open" {
  count = var.server && length(var.open_to) > 0 ? 1 : 0

  name                    = "${var.name}-open"
  description             = "The server, for named address ranges."
  network                 = local.network
  source_ranges           = var.open_to
  target_service_accounts = [google_service_account.server[0].email]

  allow {
    protocol = "tcp"
    ports    = [local.port]
  }
}

resource "google_compute_router" "server" {
  count = var.server && var.nat ? 1 : 0

  name    = var.name
  network = local.network
  region  = var.region
}

resource "google_compute_router_nat" "server" {
  count = var.server && var.nat ? 1 : 0

  name                               = var.name
  router                             = google_compute_router.server[0].name
  region                             = var.region
  nat_ip_allocate_option             = "AUTO_ONLY"
  source_subnetwork_ip_ranges_to_nat = "LIST_OF_SUBNETWORKS" # what else the network holds is not ours

  subnetwork {
    name                    = local.subnetwork
    source_ip_ranges_to_nat = ["ALL_IP_RANGES"]
  }
}
