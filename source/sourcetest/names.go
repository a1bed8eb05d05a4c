package sourcetest

// name is a name as JSON string content, in places escaped as some encoders do, and its form in an
// address.
type name struct{ text, login string }

// Invented; combined at random. The scripts, the escapes and the apostrophes are what bodies must
// survive.
var (
	firstNames = []name{
		{"Ada", "ada"}, {"Bjørn", "bjorn"}, {"Chidi", "chidi"}, {"Dóra", "dora"}, {"Élodie", "elodie"}, {"Farah", "farah"},
		{"Grzegorz", "grzegorz"}, {"Hana", "hana"}, {"Ìbùkún", "ibukun"}, {"Jo\\u00e3o", "joao"}, {"Kaito", "kaito"}, {"Łucja", "lucja"},
		{"Mina 🦊", "mina"}, {"Nguyệt", "nguyet"}, {"Omar", "omar"}, {"Paloma", "paloma"}, {"Quinn", "quinn"}, {"Rósa", "rosa"},
		{"Søren", "soren"}, {"桜", "sakura"}, {"Улана", "ulana"}, {"Vélez \\\"V\\\"", "velez"}, {"وردة", "warda"}, {"Ξένια", "xenia"},
	}
	lastNames = []name{
		{"Abernathy-Quill", "abernathy"}, {"Bräuer", "brauer"}, {"Castañeda", "castaneda"}, {"D\\u2019Arvor", "darvor"}, {"Eriksdottir", "eriksdottir"},
		{"Fjällgren", "fjallgren"}, {"Gökçe", "gokce"}, {"Horváth", "horvath"}, {"Ivanenko", "ivanenko"}, {"Jørstad", "jorstad"},
		{"Kowalczyńska", "kowalczynska"}, {"O'Leighmore", "oleighmore"}, {"山稲", "yamaine"}, {"Nwachukwu", "nwachukwu"}, {"Östlund", "ostlund"},
		{"Pereira\\/Lobo", "pereira"}, {"Szépvölgyi", "szepvolgyi"}, {"Tūmanako", "tumanako"}, {"Vancura", "vancura"}, {"Ẹ̀wẹ́ró", "ewero"},
	}
	orgNames = []string{
		"Northwind Kites", "Blåbær Logistikk", "Quarry & Finch", "Ögmund Verkstad", "Tidewater Looms", "Péché Mignon", "Saltmarsh Robotics",
		"Óbuda Optika", "Copperline Freight", "星野製作所", "Marigold Health", "Juniper\\u0026Sons", "Hollow Oak Press", "Ruta Ámbar",
		"Glasswing Labs", "Żubr Systemy", "Lantern Bay Credit", "Fennel Street Foods", "Kestrel Avionics",
	}
	domains = []string{
		"kites.example.com", "logistikk.example.com", "quarry.example.com", "verkstad.example.com", "looms.example.com", "mignon.example.com",
		"saltmarsh.example.com", "optika.example.com", "copperline.example.com", "seisakusho.example.com", "marigold.example.com",
		"juniper.example.com", "hollowoak.example.com", "ambar.example.com", "glasswing.example.com", "systemy.example.com",
		"lantern.example.com", "fennel.example.com", "kestrel.example.com",
	}
	departments = []string{
		"Engineering", "Sales – EMEA", "Sales – APAC", "Finance", "People & Culture", "Forschung", "Comptabilité", "サポート", "Legal", "Field Service", "R\\u0026D", "Purchasing",
	}
	jobs = []string{
		"Software Engineer", "Ingénieure qualité", "Account Executive", "Sachbearbeiter:in", "Site Reliability Engineer", "Kierownik zmiany",
		"Product Designer", "Data Analyst II", "営業担当", "VP, Operations", "Warehouse Lead", "Support Agent (Tier 2)",
	}
	roles        = []string{"member", "admin", "viewer", "billing-manager", "editor"}
	locales      = []string{"en-GB", "de-DE", "fr-FR", "ja-JP", "pl-PL", "pt-BR", "ar-EG", "hu-HU"}
	plans        = []string{"trial", "team", "business", "enterprise"}
	actorSources = []string{"api", "dashboard", "admin_portal", "system"}
	agents       = []string{
		"Mozilla/5.0 (X11; Linux x86_64; rv:143.0) Gecko/20100101 Firefox/143.0",
		"Mozilla/5.0 (Macintosh; Intel Mac OS X 15_6) AppleWebKit/605.1.15 (KHTML, like Gecko) Version/18.6 Safari/605.1.15",
		"Mozilla/5.0 (Windows NT 10.0; Win64; x64) AppleWebKit/537.36 (KHTML, like Gecko) Chrome/141.0.0.0 Safari/537.36",
		"ExampleApp/4.2 (iPhone; iOS 26.0)",
	}
)
