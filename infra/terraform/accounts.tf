# Two identities, each with what it needs in this one bucket and nothing else.

locals {
  # What the machine installs as root. Who publishes may write there; a key that is on every
  # platform must not, and the machine itself need not.
  releases     = "projects/_/buckets/${local.bucket}/objects/server/"
  not_releases = "!resource.name.startsWith(\"${local.releases}\")"
}

resource "google_service_account" "runner" {
  account_id   = "${var.name}-runner"
  display_name = "Runs of ${var.name}: objects in gs://${var.bucket}"

  depends_on = [google_project_service.api]
}

resource "google_storage_bucket_iam_member" "runner" {
  bucket = local.bucket
  role   = "roles/storage.objectUser"
  member = google_service_account.runner.member

  condition {
    title      = "not_the_servers_releases"
    expression = local.not_releases
  }
}

resource "google_service_account" "server" {
  count = var.server ? 1 : 0

  account_id   = "${var.name}-server"
  display_name = "Server of ${var.name}: objects in gs://${var.bucket}, its logs"

  depends_on = [google_project_service.api]
}

resource "google_storage_bucket_iam_member" "server" {
  count = var.server ? 1 : 0

  bucket = local.bucket
  role   = "roles/storage.objectUser"
  member = google_service_account.server[0].member

  condition {
    title      = "not_the_servers_releases"
    expression = local.not_releases
  }
}

resource "google_storage_bucket_iam_member" "server_releases" {
  count = var.server ? 1 : 0

  bucket = local.bucket
  role   = "roles/storage.objectViewer"
  member = google_service_account.server[0].member
}

resource "google_project_iam_member" "server_logs" {
  count = var.server ? 1 : 0

  project = var.project
  role    = "roles/logging.logWriter"
  member  = google_service_account.server[0].member

  depends_on = [google_project_service.api]
}

resource "google_secret_manager_secret_iam_member" "server_index" {
  count = var.server && var.index_secret != "" ? 1 : 0

  secret_id = var.index_secret
  role      = "roles/secretmanager.secretAccessor"
  member    = google_service_account.server[0].member
}

resource "google_iap_tunnel_instance_iam_member" "user" {
  for_each = var.server ? toset(var.users) : []

  instance = google_compute_instance.server[0].name
  zone     = local.zone
  role     = "roles/iap.tunnelResourceAccessor"
  member   = each.value
}
